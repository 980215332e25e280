// Draws a dashboard with Grafana's own panels: `window.AURL` holds the dashboard and the query results.
import React, { useMemo } from 'react';
import { createRoot } from 'react-dom/client';
import {
  createTheme,
  DataFrame,
  FieldColorModeId,
  FieldType,
  getDisplayProcessor,
  ThemeContext,
  toDataFrame,
} from '@grafana/data';
import { GraphDrawStyle, LegendDisplayMode, StackingMode, VisibilityMode } from '@grafana/schema';
import { BarGauge, BigValue, BigValueColorMode, BigValueGraphMode, PanelChrome, TimeSeries } from '@grafana/ui';

type Series = { metric: Record<string, string>; values: [number, string][] };
type Answer = { legend: string; series: Series[] };
type Panel = any;

declare global {
  interface Window {
    AURL: { dashboard: any; answers: Record<string, Answer[]>; from: number; to: number; dark: boolean };
  }
}

const { dashboard, answers, from, to, dark } = window.AURL;
const theme = createTheme({ colors: { mode: dark ? 'dark' : 'light' } });
const COLUMN = 1560 / 24;
const ROW = 34;

function legend(template: string, labels: Record<string, string>): string {
  if (template === '__auto') {
    return Object.values(labels).join(' ') || 'value';
  }
  return template.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => labels[name] ?? '');
}

function frames(panel: Panel): DataFrame[] {
  const made = (answers[panel.id] ?? []).flatMap((answer) =>
    answer.series.map((series) =>
      toDataFrame({
        fields: [
          { name: 'time', type: FieldType.time, values: series.values.map(([time]) => time * 1000) },
          {
            name: legend(answer.legend, series.metric),
            type: FieldType.number,
            labels: {},
            values: series.values.map(([, text]) => (text === 'NaN' ? null : Number(text))),
            config: { displayName: legend(answer.legend, series.metric) },
          },
        ],
      })
    )
  );
  const { custom, ...shown } = panel.fieldConfig.defaults;
  return made.map((frame, index) => {
    const field = frame.fields[1];
    field.config = {
      ...field.config,
      ...shown,
      color: { mode: FieldColorModeId.PaletteClassic },
      custom: {
        drawStyle: GraphDrawStyle.Line,
        lineWidth: 2,
        fillOpacity: 8,
        stacking: { mode: StackingMode.None, group: 'A' },
        ...custom,
        spanNulls: 30_000,
        showPoints: VisibilityMode.Auto,
      },
    };
    field.state = { ...field.state, seriesIndex: index };
    frame.fields.forEach((each) => (each.display = getDisplayProcessor({ field: each, theme, timeZone: 'utc' })));
    return frame;
  });
}

function last(frame: DataFrame): number | null {
  const values = frame.fields[1].values;
  for (let i = values.length - 1; i >= 0; i--) {
    if (values[i] !== null && !Number.isNaN(values[i])) {
      return values[i];
    }
  }
  return null;
}

function Body({ panel, width, height }: { panel: Panel; width: number; height: number }) {
  const data = useMemo(() => frames(panel), [panel]);
  if (!data.length) {
    return <div style={{ padding: 16, color: theme.colors.text.secondary }}>No data</div>;
  }
  if (panel.type === 'timeseries') {
    return (
      <TimeSeries
        frames={data}
        width={width}
        height={height}
        timeRange={{ from: from * 1000, to: to * 1000, raw: { from: '', to: '' } } as any}
        timeZone="utc"
        legend={{ displayMode: LegendDisplayMode.List, placement: 'bottom', showLegend: true, calcs: [] }}
      />
    );
  }
  if (panel.type === 'stat') {
    const newest = data[data.length - 1];
    const field = newest.fields[1];
    return (
      <BigValue
        theme={theme}
        width={width}
        height={height}
        value={field.display!(last(newest))}
        colorMode={BigValueColorMode.Value}
        graphMode={BigValueGraphMode.Area}
        sparkline={{ y: field as any, x: newest.fields[0] as any }}
      />
    );
  }
  if (panel.type === 'bargauge') {
    const rows = data
      .map((frame) => ({ name: frame.fields[1].config.displayName!, value: last(frame) ?? 0, frame }))
      .sort((a, b) => b.value - a.value)
      .slice(0, Math.max(1, Math.floor(height / 30)));
    const most = Math.max(...rows.map((row) => row.value), 1e-9);
    return (
      <>
        {rows.map((row) => (
          <BarGauge
            key={row.name}
            theme={theme}
            width={width}
            height={28}
            orientation={'horizontal' as any}
            displayMode={'gradient' as any}
            field={{ ...row.frame.fields[1].config, min: 0, max: most } as any}
            display={row.frame.fields[1].display}
            value={{ ...row.frame.fields[1].display!(row.value), title: row.name }}
            text={{ titleSize: 12, valueSize: 13 }}
          />
        ))}
      </>
    );
  }
  // table
  const labels = (answers[panel.id] ?? []).flatMap((answer) => answer.series.map((series) => series.metric));
  const names = ['namespace', 'job_namespace', 'training_job', 'job_name', 'pod', 'state'].filter((name) =>
    labels.some((each) => each[name])
  );
  return (
    <table style={{ width: '100%', fontSize: 13, borderSpacing: 0 }}>
      <thead>
        <tr>
          {names.map((name) => (
            <th key={name} style={{ textAlign: 'left', padding: '4px 8px', color: theme.colors.primary.text }}>
              {name}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {labels.slice(0, Math.floor(height / 27) - 1).map((each, index) => (
          <tr key={index}>
            {names.map((name) => (
              <td key={name} style={{ padding: '4px 8px', borderTop: `1px solid ${theme.colors.border.weak}` }}>
                {each[name]}
              </td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

// A panel that cannot be drawn shows its error and does not affect the others.
class Guarded extends React.Component<{ children: React.ReactNode }, { error?: Error }> {
  state: { error?: Error } = {};
  static getDerivedStateFromError(error: Error) {
    return { error };
  }
  render() {
    return this.state.error ? <pre>{String(this.state.error.stack)}</pre> : this.props.children;
  }
}

function Board() {
  const bottom = Math.max(...dashboard.panels.map((panel: Panel) => panel.gridPos.y + panel.gridPos.h));
  return (
    <ThemeContext.Provider value={theme}>
      <div
        id="board"
        style={{
          position: 'relative',
          width: 1592,
          height: bottom * ROW + 64,
          background: theme.colors.background.canvas,
          color: theme.colors.text.primary,
          fontFamily: theme.typography.fontFamily,
          lineHeight: theme.typography.body.lineHeight,
        }}
      >
        <div style={{ padding: '16px 20px 8px', fontSize: 20, fontWeight: 500 }}>{dashboard.title}</div>
        {dashboard.panels.map((panel: Panel) => {
          const at = panel.gridPos;
          const style: React.CSSProperties = {
            position: 'absolute',
            left: 16 + at.x * COLUMN,
            top: 56 + at.y * ROW,
            width: at.w * COLUMN - 8,
            height: at.h * ROW - 8,
          };
          if (panel.type === 'row') {
            return (
              <div key={panel.id} style={{ ...style, fontSize: 15, fontWeight: 500, paddingTop: 6 }}>
                ⌄ {panel.title}
              </div>
            );
          }
          const width = at.w * COLUMN - 8;
          const height = at.h * ROW - 8;
          return (
            <div key={panel.id} style={style}>
              <PanelChrome title={panel.title} width={width} height={height} padding="sm">
                {(innerWidth: number, innerHeight: number) => (
                  <Guarded>
                    <Body panel={panel} width={innerWidth} height={innerHeight} />
                  </Guarded>
                )}
              </PanelChrome>
            </div>
          );
        })}
      </div>
    </ThemeContext.Provider>
  );
}

Object.assign(document.body.style, { color: theme.colors.text.primary, fontSize: '14px' });
createRoot(document.getElementById('root')!).render(<Board />);
requestAnimationFrame(() => setTimeout(() => (document.title = 'drawn'), 1500));
